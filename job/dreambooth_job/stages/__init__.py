"""The pipeline's stages: one public function each, a record in and a record out."""
