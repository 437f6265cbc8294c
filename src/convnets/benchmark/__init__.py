"""How fast this project trains, beside what users would run instead; all in one run on one machine."""
