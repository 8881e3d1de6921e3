"""Training scripts: one readable script a framework, the same network and the same recipe in both."""
