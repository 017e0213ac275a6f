"""What training minimises: matching of queries and tracklets, losses, and their weights."""
