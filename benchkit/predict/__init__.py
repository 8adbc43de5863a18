"""From a finished cell, or an exported folder, to predictions for texts of one's own."""
