"""Files of migrations to statements: tools and their order, text to parse trees, DO blocks opened."""
