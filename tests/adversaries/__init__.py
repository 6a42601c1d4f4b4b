"""Dishonest parties, each the real service around one lie."""
