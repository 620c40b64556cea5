"""What a run found, and how people see it: results, folder, models, tables, picture, page."""
