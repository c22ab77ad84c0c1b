"""The benchmark of matching, assignment, losses and suppression; that of deformable attention is beside it."""
