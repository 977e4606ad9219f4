import './style.css';
import { greeting } from './greeting.js';

document.querySelector('#app').textContent = greeting('front end');
