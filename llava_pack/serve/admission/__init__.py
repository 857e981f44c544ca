"""What is let in, and whose turn it is: bounds, budgets, fairness."""
