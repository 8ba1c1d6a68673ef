"""What a run is before anything is trained: its settings and file, its folder, its sets as a model reads them, its journal."""
