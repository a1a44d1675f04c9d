"""Budgets: one file each."""
