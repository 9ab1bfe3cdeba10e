"""Error rates, scoring, reports, detection of wrong labels."""
