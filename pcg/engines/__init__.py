"""pcg inside other engines: the acceptance rules where those have their own."""
