"""How every command is read: KEY=VALUE beside options, all mistakes at once, groups in the help, exit codes, output.

Not here: any command. May import: ``errors`` and ``utils``.
"""
