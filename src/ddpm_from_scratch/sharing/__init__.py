"""What a run tells others: results, model card, upload, page."""
