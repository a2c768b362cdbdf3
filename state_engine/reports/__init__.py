"""Reports to hand on: one HTML file for a run, with figures, tables, verdict, methods, citations and the request; opens offline, no scripts."""
