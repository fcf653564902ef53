"""Scripts that each ask one question of the package and record the answer."""
