"""VMT inside other frameworks; each is imported by whoever uses it, and by nothing of ours."""
