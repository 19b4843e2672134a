"""Forms of answers, read as languages that know their shortest text, and compiled where it cannot hurt."""
