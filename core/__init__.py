"""The search: a frozen generator, one variable, an objective, a budget and a step rule. torch only."""
