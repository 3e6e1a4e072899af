"""What a person looks at after a run: loss curve, sample grid, preview and one self-contained report.html.

Called by the export stage; everything shown was measured or set in the run, nothing is judged or guessed.
"""
