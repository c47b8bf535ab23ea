"""What a run looks like: its pictures, and the page about one or several runs."""
