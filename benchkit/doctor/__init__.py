"""What this machine has and lacks. Parts that could take a process down are tried in one of their own."""
