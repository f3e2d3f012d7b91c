"""Rewards that are shaped before advantages are made of them."""
