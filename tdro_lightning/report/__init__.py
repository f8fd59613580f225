"""From run folders to one page; reads files only, never a model."""
