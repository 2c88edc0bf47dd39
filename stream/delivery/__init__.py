"""What makes a batch count once: source, assignment, fence, clock, commit, outbox, drain."""
