"""Trains, evaluates and exports taggers; never imported by the service."""
