"""Which policy answers which user, and the revisions of that plan."""
