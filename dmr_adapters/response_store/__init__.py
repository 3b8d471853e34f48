"""Answers that outlive the service."""
