package letters

const Name = "workspace!"
