"""Parameter names of published weight files <-> ours, as tables that read both ways."""
