"""Why a score is what it is: errors, attributes, and how sure it is."""
