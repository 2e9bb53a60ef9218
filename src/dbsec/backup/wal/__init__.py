"""Write-ahead log in the repository: names, push, fetch, the archiver and the streaming receiver."""
