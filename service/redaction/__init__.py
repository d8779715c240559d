"""Persons out of texts: POST /v1/redact, and what it knows of names."""
