"""The test kit for plugin authors: fakes of every port and the contract suites they pass."""
