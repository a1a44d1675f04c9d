"""What stands between here and a device reached over ssh: address and trust, the connection, and the agent at its other end."""
