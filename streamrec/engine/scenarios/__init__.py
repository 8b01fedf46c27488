"""The questions that can be asked, and the rules that hold for one request."""
