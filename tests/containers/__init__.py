"""The stack on a real engine."""
