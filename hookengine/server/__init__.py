"""The HTTP API."""

from hookengine.server.listener import Server

__all__ = ["Server"]
