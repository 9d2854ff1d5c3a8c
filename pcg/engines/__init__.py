"""pcg inside other engines: its acceptance rules replace theirs."""
