"""What to recommend: recent popularity and co-visitation, learned in one place and scored from frozen snapshots."""
