"""The judging room: facts side by side, budgets over them, and a verdict that says unknown when it is unknown."""
