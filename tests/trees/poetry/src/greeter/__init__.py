GREETING = "from Poetry"
