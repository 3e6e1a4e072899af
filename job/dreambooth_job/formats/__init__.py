"""The files a result consists of, and the proof that what was written is what was trained."""
