"""What generated frames are worth: measures, controls and the table. numpy only."""
