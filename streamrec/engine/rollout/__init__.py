"""Which policy answers whom, and the revisions of that plan."""
