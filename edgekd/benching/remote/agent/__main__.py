"""The agent as a program."""

from .serving import Agent

Agent().serve()
