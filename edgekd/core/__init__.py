"""What every room stands on: contracts, records, parts, configuration, the run folder. Imports no torch."""
