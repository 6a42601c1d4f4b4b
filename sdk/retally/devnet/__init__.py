"""A whole retally network on one machine: real chain, real engine, real services."""
