"""The HTTP API."""

from hookengine.server.listener import Server, bind

__all__ = ["Server", "bind"]
