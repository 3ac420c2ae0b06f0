"""The parts of the re-ordering study: orders, and what arranges blocks so."""
