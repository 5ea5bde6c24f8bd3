"""Files made to hurt, every command that opens them, and what each pair of the two must end with; see README.md."""
