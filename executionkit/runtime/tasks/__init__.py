"""Tasks, threads and event loops: who waits for whom, who may cancel whom, and until when."""
