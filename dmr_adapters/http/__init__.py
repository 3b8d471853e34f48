"""The HTTP shell: Starlette for management, plain ASGI for inference."""
